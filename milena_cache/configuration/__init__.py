"""The node's configuration.

`config` parses the environment, and `advertised` derives the addresses at which others reach the node. Every
variable without a working default is required, and limits are checked.
"""
