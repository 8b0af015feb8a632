"""The audit: do the results still say what they said when they were made?"""
