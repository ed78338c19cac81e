"""Commands for bookmarks and notes, which are kept beside the recording."""

from __future__ import annotations

from revirt.debugger.commands import Command, Words, complete_bookmark, expect
from revirt.debugger.looking import where
from revirt.debugger.session import Session
from revirt.recording.notes import Bookmark


def _bookmark(session: Session, words: Words) -> str:
    expect(words, 1, 1000, "bookmark NAME [NOTE]")
    session.notes.set(Bookmark(words[0], session.position, " ".join(words[1:])))
    return f"bookmark {words[0]} at {session.position}"


def _goto(session: Session, words: Words) -> str:
    (name,) = expect(words, 1, 1, "goto NAME")
    bookmark = session.notes.get(name)
    session.timeline.seek(bookmark.position)
    return f"{bookmark.name}: {bookmark.note}\n{where(session)}" if bookmark.note else where(session)


def _note(session: Session, words: Words) -> str:
    name, *rest = expect(words, 1, 1000, "note NAME TEXT")
    known = session.notes.get(name)
    session.notes.set(Bookmark(name, known.position, " ".join(rest)))
    return f"noted: {name}"


def _forget(session: Session, words: Words) -> str:
    (name,) = expect(words, 1, 1, "forget NAME")
    session.notes.remove(name)
    return f"forgot {name}"


def _bookmarks(session: Session, words: Words) -> str:
    expect(words, 0, 0, "bookmarks")
    lines = [f"{each.position!s:>16}  {each.name:<16} {each.note}".rstrip() for each in session.notes.all]
    return "\n".join(lines) or "no bookmarks"


COMMANDS = (
    Command("bookmark", "NAME [NOTE]", "give this position a name", _bookmark, ("mark", "m")),
    Command("goto", "NAME", "go to a bookmark", _goto, ("'",), complete_bookmark, moves=True),
    Command("note", "NAME TEXT", "write another note to a bookmark", _note, (), complete_bookmark),
    Command("forget", "NAME", "delete a bookmark", _forget, (), complete_bookmark),
    Command("bookmarks", "", "list the bookmarks with their notes", _bookmarks),
)
