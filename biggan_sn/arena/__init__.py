"""Methods against one another: the same game with each, several times, and one table of them."""
