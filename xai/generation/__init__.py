"""What generative language models write, with images or without, explained word by word."""
