"""Protocol front ends of the node. A door translates, and decides nothing."""
