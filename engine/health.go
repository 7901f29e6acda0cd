package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"obuilder.org/obuilder/sandbox"
	"obuilder.org/obuilder/zfs"
)

// An UnhealthyError is why nothing is built until somebody has looked at the
// machine.
type UnhealthyError struct {
	Reason  string `json:"reason"`
	Process string `json:"process,omitempty"` // that cannot be killed: "77 (make, state U)"
	Command string `json:"command,omitempty"` // that it is
	Dataset string `json:"dataset,omitempty"` // that it is about
	// Reboot says that nothing else may help.
	Reboot bool      `json:"needs_reboot"`
	Since  time.Time `json:"since,omitzero"`
	Err    error     `json:"-"` // what has failed; nil when another process has noted it
}

func (e *UnhealthyError) Error() string {
	text := e.Reason
	if e.Reboot {
		text = "the machine needs a reboot: " + text
	}
	if e.Dataset != "" && !strings.Contains(text, e.Dataset) {
		text += " (" + e.Dataset + ")"
	}
	return text
}

// Unwrap gives Err.
func (e *UnhealthyError) Unwrap() error { return e.Err }

// Hint says what to do about it.
func (e *UnhealthyError) Hint() string {
	switch {
	case e.Reboot:
		return "reboot the machine; or, if that process has gone, run obuilder fsck --repair"
	case e.Dataset != "":
		return "end what holds it, then start obuilder again; if that does not help, reboot the machine"
	}
	return ""
}

// unhealthy gives what an error says about the health of the machine; nil for
// nothing.
func unhealthy(err error, dataset string) *UnhealthyError {
	var (
		command  *zfs.Error
		process  *zfs.StuckError
		stuck    *sandbox.StuckError
		mounted  *MountedError
		sick     = &UnhealthyError{Dataset: dataset, Err: err}
		fromName = func(argv []string) {
			if len(argv) == 0 {
				return
			}
			sick.Command = zfs.CommandLine(argv)
			if name, err := zfs.Parse(argv[len(argv)-1]); err == nil {
				sick.Dataset = name.String()
			}
		}
	)
	switch {
	case errors.As(err, new(*UnhealthyError)):
		return nil // it is known
	case errors.Is(err, zfs.ErrStuck):
		sick.Reboot = true
		if errors.As(err, &command) {
			fromName(command.Argv)
			sick.Reason = fmt.Sprintf("%s cannot be killed", sick.Command)
		}
		if errors.As(err, &process) {
			fromName(process.Argv)
			sick.Process, sick.Reason = strconv.Itoa(process.Pid), process.Error()
		}
	case errors.As(err, &stuck):
		sick.Reboot = true
		sick.Process, sick.Reason = strings.Join(stuck.Processes, ", "), stuck.Error()
	case errors.As(err, &mounted):
		sick.Dataset, sick.Process, sick.Reason = mounted.Dataset, strings.Join(mounted.Holders, ", "), mounted.Error()
	default:
		return nil
	}
	return sick
}

// Health gives an *UnhealthyError when nothing can be built until somebody has
// looked at the machine: a process could not be killed, or a file system not
// unmounted. The former is noted until the machine is rebooted.
func (e *Engine) Health() error {
	if sick := e.sick.Load(); sick != nil {
		return sick
	}
	return nil
}

// noteTime bounds how long the note may take: the store itself may be stuck.
const noteTime = 10 * time.Second

// noteHealth notes what an error, which may be nil, says about the machine.
func (e *Engine) noteHealth(err error, dataset string) {
	if err == nil {
		return
	}
	sick := unhealthy(err, dataset)
	if sick == nil {
		return
	}
	sick.Since = e.clock.Now().UTC()
	if !e.sick.CompareAndSwap(nil, sick) {
		return
	}
	e.log.Error("nothing is built any more", "reason", sick.Reason, "process", sick.Process, "command", sick.Command, "dataset", sick.Dataset)
	if !sick.Reboot || e.boot == "" || e.statePath == "" {
		return
	}
	written := make(chan error, 1)
	go func() { written <- e.writeHealth(sick) }()
	select {
	case err = <-written:
	case <-time.After(noteTime):
		err = fmt.Errorf("not written within %v", noteTime)
	}
	if err != nil {
		e.log.Error("cannot note that the machine needs a reboot", "err", err)
	}
}

// A healthNote is what is kept in the file of needsReboot.
type healthNote struct {
	Boot string `json:"boot"`
	*UnhealthyError
}

const (
	needsReboot = "needs-reboot" // below POOL/state
	maxNote     = 1 << 16        // bytes
)

func (e *Engine) writeHealth(sick *UnhealthyError) error {
	data, err := json.Marshal(healthNote{e.boot, sick})
	if err != nil {
		return err
	}
	file, err := e.files.OpenFile(e.statePath+"/"+needsReboot, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(append(data, '\n'))
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// readNote reads the note below a directory; nil when there is none of this
// boot. One that cannot be read was not written to its end.
func readNote(files zfs.Files, dir, boot string) (*UnhealthyError, bool, error) {
	data, err := files.ReadFile(dir+"/"+needsReboot, maxNote)
	if notExist(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	note := healthNote{UnhealthyError: &UnhealthyError{}}
	if err := json.Unmarshal(data, &note); err != nil || note.Boot == "" || note.Boot != boot {
		return nil, true, nil
	}
	return note.UnhealthyError, true, nil
}

// readHealth reads what an earlier process has noted, and removes that after
// a reboot.
func (e *Engine) readHealth() error {
	sick, found, err := readNote(e.files, e.statePath, e.boot)
	if err != nil {
		return &StoreError{Reason: "cannot read the state of the store", Err: err}
	}
	if sick == nil && found {
		e.log.Info("the machine was rebooted")
		return e.files.Remove(e.statePath + "/" + needsReboot)
	}
	if sick != nil {
		e.sick.Store(sick)
	}
	return nil
}

// recovered notes that the machine is well again.
func (e *Engine) recovered() error {
	e.sick.Store(nil)
	if err := e.files.Remove(e.statePath + "/" + needsReboot); err != nil && !notExist(err) {
		return err
	}
	return nil
}

// A PoolHealth is what [CheckPool] has seen.
type PoolHealth struct {
	Pool        string
	State       string // "ONLINE"
	Free, Total uint64 // bytes: what can still be written, and that with what is used
}

// CheckPool looks at a store without changing it, waiting for who uses it, or
// making anything in it: whether its pool is there and online and has minFree
// bytes left, and whether something was noted that needs a reboot. What speaks
// against building is an *UnhealthyError, with what was seen before that. It
// takes two commands.
func CheckPool(ctx context.Context, o Options, minFree uint64) (h PoolHealth, err error) {
	h.Pool = o.Root.Pool()
	if o.Clock == nil {
		o.Clock = SystemClock{}
	}
	e := &Engine{fs: o.FS, clock: o.Clock, root: o.Root, log: nopLog(o.Log)}
	rows, err := e.waitForRoot(ctx, o.PoolWait, "used", "available")
	if err != nil {
		return h, err
	}
	state := ""
	for _, row := range rows {
		switch row.Name {
		case o.Root.String():
			used, err1 := strconv.ParseUint(row.Values[2], 10, 64)
			free, err2 := strconv.ParseUint(row.Values[3], 10, 64)
			if err := errors.Join(err1, err2); err != nil {
				return h, err
			}
			h.Free, h.Total = free, used+free
		case o.Root.String() + "/state":
			if row.Values[1] == "yes" {
				state = path.Clean(row.Values[0])
			}
		}
	}
	status, err := o.FS.Pool(ctx, h.Pool)
	if err != nil {
		return h, err
	}
	h.State = status.Health
	if state != "" {
		sick, _, err := readNote(o.Files, state, o.Boot)
		if err != nil {
			return h, err
		}
		if sick != nil {
			return h, sick
		}
	}
	switch {
	case h.State != "ONLINE":
		return h, &UnhealthyError{Reason: fmt.Sprintf("the pool %s is %s", h.Pool, h.State), Err: nil}
	case h.Free < minFree:
		return h, &UnhealthyError{Reason: fmt.Sprintf("only %s are free in %s, and %s shall be", humanize.IBytes(h.Free), o.Root, humanize.IBytes(minFree))}
	}
	return h, nil
}
