"""Runs a guest live, and writes down what reaches it from outside.

console, script, terminal   the far end of the guest's serial line
live                        answers the machine's questions from the host
given                       inputs that came once before
recorder                    the same, and writes the answers down
beginning                   what a run begins with
session                     one run from there to finished recording
"""
