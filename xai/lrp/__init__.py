"""Layer-wise relevance propagation over stock models: rules, tables of rules, and the mode that lays them into the graph."""
