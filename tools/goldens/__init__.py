"""Golden recordings: made once by each format, replayed by every revirt that comes after it.

table     what there is to make, and how
make      makes what is in the table and not there yet, and notes down what a replay of it comes to
witness   what a replay comes to: hashes of memory, registers, devices and output at some positions and at the end
check     compares files, and what replays of them come to, with what was noted down
*.c       guests for what the bundled ones leave out
"""
