"""Pictures of relevance."""
