"""From one measured operating point to a gigawatt: tokens, watts and dollars with their ranges."""
