"""Numbers from outside: every one a row with a range, a unit, a source and a grade."""
