"""The node's configuration: `config` reads the environment, and `advertised` derives the addresses under which
others reach the node. A variable has a default that works and limits that are checked.
"""
