"""unit/ mirrors the package, reference/ is truth, contract/ the rules, training/ behaviour."""
