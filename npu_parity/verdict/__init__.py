"""The verdict: is the port the same network, and how do we know?"""
