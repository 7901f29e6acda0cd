// Package remote has programs zfs and zpool that are answered by the process
// that made them: by a function, such as the command line of a machine in
// memory. What runs zfs, such as zfs/real, is tested with it on any system, end
// to end, through processes. The programs are the test itself under other names.
//
//	func TestMain(m *testing.M) {
//		remote.Main() // does not return in a process that is zfs or zpool
//		os.Exit(m.Run())
//	}
//
//	func Test(t *testing.T) {
//		m := fake.New()
//		s, err := remote.Start(func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) int {
//			return command.Run(ctx, m, argv, stdin, stdout, stderr)
//		})
//		defer s.Close()
//		t.Setenv(remote.Socket, s.Path)
//		fs, err := real.New(real.Options{ZFS: s.ZFS})
//	}
package remote

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
)

// Socket is the variable of the environment in which the programs find who
// answers them.
const Socket = "OBUILDER_TEST_ZFS_SOCKET"

// A Program answers a command line, of which argv[0] is zfs or zpool, and gives
// its exit status. Several can run at once. ctx ends when the process that asked does.
type Program func(ctx context.Context, argv []string, stdin io.Reader, stdout, stderr io.Writer) int

// A Server answers the programs that it has made.
type Server struct {
	ZFS  string // the path of the program zfs; zpool is beside it
	Path string // what Socket is to be set to

	dir      string
	listener net.Listener
	cancel   context.CancelFunc
	running  sync.WaitGroup
}

// Start makes the programs, in a directory of their own, and answers them until
// Close.
func Start(run Program) (*Server, error) {
	// Not in the directory of a test: the path of a socket is 100 bytes at most.
	dir, err := os.MkdirTemp("", "zfs")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, Path: filepath.Join(dir, "socket")}
	if err := s.start(run); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

func (s *Server) start(run Program) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	bin := filepath.Join(s.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	suffix := ""
	if runtime.GOOS == "windows" {
		suffix = ".exe"
	}
	for _, name := range []string{"zfs", "zpool"} {
		if err := link(self, filepath.Join(bin, name+suffix)); err != nil {
			return err
		}
	}
	s.ZFS = filepath.Join(bin, "zfs"+suffix)
	if s.listener, err = net.Listen("unix", s.Path); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.running.Go(func() {
		for {
			conn, err := s.listener.Accept()
			if err != nil {
				return
			}
			s.running.Go(func() { serve(ctx, conn, run) })
		}
	})
	return nil
}

// link gives a program another name.
func link(program, name string) error {
	if os.Symlink(program, name) == nil || os.Link(program, name) == nil {
		return nil
	}
	in, err := os.Open(program)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// Bin is the directory of the programs, for PATH.
func (s *Server) Bin() string { return filepath.Dir(s.ZFS) }

// Close ends the answers, those that are being given too, and removes the
// programs.
func (s *Server) Close() error {
	s.cancel()
	err := s.listener.Close()
	s.running.Wait()
	return errors.Join(err, os.RemoveAll(s.dir))
}

// A message goes to the program or, when it is the command line or a part of
// standard input, from it.
type message struct {
	Kind   kind
	Argv   []string
	Data   []byte
	Status int
}

type kind uint8

const (
	commandLine kind = iota
	wantInput        // standard input is asked for
	input            // some of it; none at its end
	output
	errorOutput
	exit
)

// A peer is the other end of a connection. Messages can be sent by several at once.
type peer struct {
	mu  sync.Mutex
	enc *gob.Encoder
	dec *gob.Decoder
}

func newPeer(conn net.Conn) *peer { return &peer{enc: gob.NewEncoder(conn), dec: gob.NewDecoder(conn)} }

func (p *peer) send(m message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.enc.Encode(m)
}

func (p *peer) receive() (m message, err error) {
	err = p.dec.Decode(&m)
	return m, err
}

// A stream is output that is sent.
type stream struct {
	to   *peer
	kind kind
}

func (s stream) Write(data []byte) (int, error) {
	if len(data) == 0 {
		return 0, nil
	}
	if err := s.to.send(message{Kind: s.kind, Data: data}); err != nil {
		return 0, err
	}
	return len(data), nil
}

// stdin is the standard input of the program, asked for as it is read.
type stdin struct {
	from   *peer
	ctx    context.Context
	chunks <-chan []byte
	rest   []byte
	ended  bool
}

func (r *stdin) Read(data []byte) (int, error) {
	if len(r.rest) == 0 && !r.ended {
		if err := r.from.send(message{Kind: wantInput}); err != nil {
			return 0, err
		}
		select {
		case r.rest = <-r.chunks:
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
		r.ended = len(r.rest) == 0
	}
	if r.ended {
		return 0, io.EOF
	}
	n := copy(data, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// serve answers one process.
func serve(ctx context.Context, conn net.Conn, run Program) {
	ctx, cancel := context.WithCancel(ctx)
	defer conn.Close()
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	p := newPeer(conn)
	first, err := p.receive()
	if err != nil || len(first.Argv) == 0 {
		return
	}
	chunks := make(chan []byte)
	go func() {
		defer cancel() // the process has ended
		for {
			m, err := p.receive()
			if err != nil {
				return
			}
			select {
			case chunks <- m.Data:
			case <-ctx.Done():
				return
			}
		}
	}()
	status := run(ctx, first.Argv, &stdin{from: p, ctx: ctx, chunks: chunks}, stream{p, output}, stream{p, errorOutput})
	_ = p.send(message{Kind: exit, Status: status})
}

// Main ends a process that is called zfs or zpool, where [Socket] is set, with
// what the [Server] answers. Of any other it does nothing.
func Main() {
	name := strings.TrimSuffix(filepath.Base(os.Args[0]), ".exe")
	path := os.Getenv(Socket)
	if path == "" || name != "zfs" && name != "zpool" {
		return
	}
	status, err := ask(path, append([]string{name}, os.Args[1:]...), os.Stdin, os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: nobody answers: %v\n", name, err)
		status = 1
	}
	os.Exit(status)
}

// ask has argv answered by the server at path.
func ask(path string, argv []string, in io.Reader, out, errs io.Writer) (status int, err error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	p := newPeer(conn)
	if err := p.send(message{Kind: commandLine, Argv: argv}); err != nil {
		return 0, err
	}
	buf := make([]byte, 64<<10)
	for {
		m, err := p.receive()
		if err != nil {
			return 0, err
		}
		switch m.Kind {
		case output:
			_, err = out.Write(m.Data)
		case errorOutput:
			_, err = errs.Write(m.Data)
		case wantInput:
			n, rerr := io.ReadAtLeast(in, buf, 1)
			if rerr != nil && rerr != io.EOF {
				return 0, rerr
			}
			err = p.send(message{Kind: input, Data: buf[:n]})
		case exit:
			return m.Status, nil
		}
		if err != nil {
			return 0, err
		}
	}
}
