"""One forward pass of a stock model on record: every attention, with what goes in and comes out."""
