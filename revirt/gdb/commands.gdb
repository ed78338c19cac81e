# Commands for gdb when it looks at a recording: those of the stub without "monitor" before them.
# Read it with gdb's -x or "source", before "target remote".

set pagination off
set confirm off
# A search through a recording takes as long as it takes.
set remotetimeout 60

# What moves the guest behind gdb's back has gdb forget what it knows, and show where it is.
define hookpost-monitor
  maintenance flush register-cache
  maintenance flush dcache
end

# Not behind "target remote": what is hooked there gdb leaves out when that is typed at its prompt.
define hook-monitor
  monitor hints off
end

define when
  monitor when
end
document when
Say which position this is, which event comes next, and the guest's time.
end

define elapsed-time
  monitor elapsed-time
end
document elapsed-time
Say the guest's time.
end

define seek
  monitor seek $arg0
  frame
end
document seek
Go to a position (BRANCHES or BRANCHES:STEPS), a time (12.5s), 50%, event:N, checkpoint:N, icount:N, start or end.
end

define back
  monitor back
  frame
end
document back
Go to the place before this one in the history of places.
end

define forward
  monitor forward
  frame
end
document forward
Go to the place that "back" came from.
end

define events
  if $argc == 0
    monitor events
  else
    monitor events $arg0
  end
end
document events
List the next events of the recording: events [N].
end

define checkpoint
  monitor checkpoint
end
document checkpoint
Mark this position; "restart N" goes back to it.
end

define restart
  monitor restart $arg0
  frame
end
document restart
Go to the position that was marked N.
end

define info checkpoints
  monitor info checkpoints
end
document info checkpoints
List the positions that were marked.
end

define delete checkpoint
  monitor delete checkpoint $arg0
end
document delete checkpoint
Forget the mark N.
end

define info recording
  monitor info recording
end
document info recording
Say what this is a recording of.
end
