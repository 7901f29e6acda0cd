package engine

import "time"

// An EventKind says what an [Event] is about.
type EventKind string

// The kinds of event, in the order in which a step has them.
const (
	EventHeading EventKind = "heading" // an operation begins; Text is how it is written
	EventWaiting EventKind = "waiting" // it waits for something; Text says for what
	EventStale   EventKind = "stale"   // its stored result is not used; Text says why
	EventOutput  EventKind = "output"  // what the step printed, in pieces of any length
	EventCached  EventKind = "cached"  // the result was there already
	EventSaved   EventKind = "saved"   // the result is complete and stored
	EventFailed  EventKind = "failed"  // the step failed or was cancelled; nothing of it remains
	EventNote    EventKind = "note"    // anything else a reader should know
)

// An Event is something that a build tells whoever asked for it.
type Event struct {
	Kind  EventKind
	Build []string // names of the nested builds it happens in, outermost first
	Op    string   // "from", "run", "copy", "env", ...
	ID    string   // of the step's result, where there is one
	Base  string   // of the result that it is built on; "" for a base
	Text  string   // heading, note or the reason of a failure
	Data  []byte   // EventOutput; valid until the callback returns
	Took  time.Duration
}
