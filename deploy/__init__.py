"""From files to answers: run, verify, price, compare, and the command line."""
