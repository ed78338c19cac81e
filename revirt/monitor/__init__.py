"""Runs a guest live, and writes down what reaches it from outside.

console, script, terminal   the far end of the guest's serial line
live                        answers the machine's questions from the host
recorder                    the same, and writes the answers down
session                     one run from image to finished recording
"""
