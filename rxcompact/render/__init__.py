"""Text, HTML and SVG for displays: pure functions that subscribe to nothing, wait for nothing and write nothing.

They know what they show by its attributes alone: nothing here imports from the floors above.
"""
