"""Checkpoints that were changed by someone who knows how to seal them."""

import hashlib
import json
from pathlib import Path

from biggan_sn.checkpoint import STATE_NAME, save_state


def forge(path: Path, *missing: str, **changes: object) -> None:
    """Gives the checkpoint `path` another state, one that fits its files as they are now."""
    state = json.loads((path / STATE_NAME).read_text()) | changes
    files = {
        file.name: {
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in path.glob("*.safetensors")
    }
    state = {"files": files} | {k: v for k, v in state.items() if k != "files"}
    save_state(path, {k: v for k, v in state.items() if k not in missing})
