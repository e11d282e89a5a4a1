"""What a target's parser takes, as data, and the code that reads it."""
