package console

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"obuilder.org/obuilder/engine"
)

// EventVersion is the version of the event stream: a number that grows when
// a reader of an older version could be misled. New fields and new kinds of
// event may come without it.
const EventVersion = 1

// A jsonEvent is a line of the event stream; docs/events.md describes it.
type jsonEvent struct {
	Version    int      `json:"version,omitempty"` // first line only
	Event      string   `json:"event"`
	Op         string   `json:"op,omitempty"`
	Build      []string `json:"build,omitempty"`
	ID         string   `json:"id,omitempty"`
	Base       string   `json:"base,omitempty"`
	Text       string   `json:"text,omitempty"`
	Data       string   `json:"data,omitempty"`
	DataBase64 []byte   `json:"data_base64,omitempty"`
	Seconds    float64  `json:"seconds,omitempty"`
	Status     *int     `json:"status,omitempty"` // last line only
	Error      string   `json:"error,omitempty"`
	Hint       string   `json:"hint,omitempty"`
}

// A stream is how far an event stream has come.
type stream struct {
	begun bool
	id    string // of the result
}

// JSON prints v as one line.
func (c *Console) JSON(v any) error {
	var line bytes.Buffer
	e := json.NewEncoder(&line)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("writing json: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.write(line.Bytes())
	return err
}

// JSONStart prints the first line of an event stream. [Console.Execute] prints
// the last, and the first as well when the command did not come so far.
func (c *Console) JSONStart(storeName string) error {
	c.stream.begun = true
	return c.JSON(jsonEvent{Version: EventVersion, Event: "start", Text: storeName})
}

// JSONEvent prints an event of a build. Output that is not UTF-8 is in
// data_base64.
func (c *Console) JSONEvent(ev engine.Event) {
	j := jsonEvent{Event: string(ev.Kind), Op: ev.Op, Build: ev.Build, ID: ev.ID, Base: ev.Base, Text: ev.Text, Seconds: ev.Took.Seconds()}
	if utf8.Valid(ev.Data) {
		j.Data = string(ev.Data)
	} else {
		j.DataBase64 = ev.Data
	}
	_ = c.JSON(j) // when it cannot be written the build is cancelled
}

// A jsonHealth is the line of a healthcheck that says what it has seen.
type jsonHealth struct {
	Event      string `json:"event"`
	Healthy    bool   `json:"healthy"`
	Pool       string `json:"pool,omitempty"`
	State      string `json:"state,omitempty"`
	FreeBytes  uint64 `json:"free_bytes,omitempty"`
	TotalBytes uint64 `json:"total_bytes,omitempty"`
	Holder     string `json:"holder,omitempty"`
	*engine.UnhealthyError
}

// JSONHealth prints what a healthcheck has seen: of the pool, who uses the
// store, "" for nobody, and what speaks against building, nil for nothing.
func (c *Console) JSONHealth(h engine.PoolHealth, holder string, err error) error {
	j := jsonHealth{Event: "health", Healthy: err == nil, Pool: h.Pool, State: h.State, FreeBytes: h.Free, TotalBytes: h.Total, Holder: holder}
	errors.As(err, &j.UnhealthyError)
	return c.JSON(j)
}

// JSONResult sets the id that the last line of the stream names.
func (c *Console) JSONResult(id string) { c.stream.id = id }

// jsonEnd prints the last line of an event stream.
func (c *Console) jsonEnd(err error) error {
	if !c.stream.begun {
		if err := c.JSONStart(""); err != nil {
			return err
		}
	}
	status := Status(err)
	j := jsonEvent{Event: "end", ID: c.stream.id, Status: &status}
	if err != nil {
		j.Error, j.Hint = oneLine(err), Hint(err)
	}
	return c.JSON(j)
}
