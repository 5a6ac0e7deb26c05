"""Packages of npm that tests run unchanged: package.json has their versions, and what they are for."""
