"""Games on tokens: what a target is when some of them are not there, and how much of it each is credited with."""
