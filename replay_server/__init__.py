"""The replay server: takes every robot's experience, stores it once, and serves it."""
