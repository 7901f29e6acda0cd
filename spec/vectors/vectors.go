// Package vectors holds what ocurrent/obuilder itself did with 228 specs: the
// step ids, hashed inputs, printed forms, Dockerfiles, manifests and tar
// entries that this implementation must also give. Tests of the packages spec,
// source and engine read it; nothing else does.
//
//	data, err := vectors.Load()
//	for _, v := range data.Vectors {
//		t.Run(v.Name, func(t *testing.T) { ... v.Spec ... v.Expected.Steps ... })
//	}
//
// The file in this directory is the recording as it was made, compressed: see
// [Data].Generator and [Data].Format for where it comes from. Strings in it
// that are not UTF-8 are recorded in base64; here every string is already
// decoded, so a Go string may hold any bytes.
package vectors

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"fmt"
	"strconv"
)

//go:embed obuilder.json.gz
var recording []byte

// Data is the whole recording.
type Data struct {
	Generator   string
	Format      string
	Vectors     []Vector
	Manifests   []Manifest
	EscapeCache []CacheName `json:"escape_cache"`
}

// A Vector is one spec and what came of it.
type Vector struct {
	Name string
	Kind string // "valid" or "invalid"
	Spec string
	Tree []Entry // the source directory
	// Secrets are those given on the command line.
	Secrets []Secret
	// BaseEnv is the environment stored in a base image, newest first, by the
	// name of the image; "*" stands for every image not named.
	BaseEnv  map[string][][2]string `json:"base_env"`
	Context  *Context               // overrides of the defaults; nil for none
	Note     string                 // what the vector shows, where its name does not say it
	Expected Expected
}

// Valid reports whether the spec builds.
func (v *Vector) Valid() bool { return v.Kind == "valid" }

// Env is the environment stored in the base image, newest first.
func (v *Vector) Env(image string) [][2]string {
	if env, ok := v.BaseEnv[image]; ok {
		return env
	}
	return v.BaseEnv["*"]
}

// An Entry is one file of a source tree. Its parent directories need not have
// entries of their own.
type Entry struct {
	Path    string
	Type    string // "file", "dir", "symlink" or "fifo"
	Mode    uint32 // Unix mode bits; file and dir only
	Content string // file only
	Target  string // symlink only
}

// A Secret is one that was given on the command line.
type Secret struct {
	ID, Value string
}

// A Context overrides the state that a build starts with. Nil fields are not
// overridden.
type Context struct {
	Env     [][2]string
	User    *User
	Workdir *string
	Shell   []string
	// RunCreates are files that the stubbed sandbox created in the root file
	// system of each run step.
	RunCreates []string `json:"run_creates"`
}

// A User is a Unix one, or a Windows one when Name is not empty.
type User struct {
	UID, GID int
	Name     string
}

// Expected is what came of a spec. For an invalid one, Error is set, and the
// rest is filled in as far as it got.
type Expected struct {
	Error       *Error
	InputSexp   string `json:"input_sexp"`    // the source re-printed by the machine printer, empty if it could not be read
	SpecSexp    string `json:"spec_sexp"`     // the parsed spec by the machine printer
	SpecSexpHum string `json:"spec_sexp_hum"` // the same by the indenting printer
	PP          string // the pretty-printed spec
	Dockerfile  Dockerfiles
	Steps       []Step
	Log         []LogLine
	Result      string // id of the last step
}

// An Error is how the spec failed.
type Error struct {
	Phase   string // "load_sexp", "t_of_sexp" (both in reading the spec) or "build"
	Message string
}

// Dockerfiles are the four forms of the Dockerfile made from the spec.
type Dockerfiles struct {
	Unix, UnixBuildKit, Windows, WindowsBuildKit Dockerfile
}

// A Dockerfile is its text, or the error that came in its place.
type Dockerfile struct {
	Text  string
	Error *Error
}

// A Step is a from, run or copy that was looked up or built.
type Step struct {
	Op      string // "from", "run" or "copy"
	Heading string
	InBuild []string `json:"in_build"` // names of the builds it is nested in, outermost first
	Sexp    string   // what is hashed
	ID      string   // sha256 of Sexp, in hex
	Result  string   // "saved" or "cached"
	Base    string   // run and copy, saved: id of the step before
	Config  *Config  // run and copy, saved: what the sandbox was asked for
	Caches  []CacheName
	Tar     *Tar // copy, saved: what was sent
}

// A Config is what the sandbox was asked to do.
type Config struct {
	Cwd          string
	Argv         []string
	Hostname     string
	User         User
	Env          [][2]string
	Network      []string
	Mounts       []Mount
	MountSecrets []MountSecret `json:"mount_secrets"`
}

// A Mount is a cache that was mounted.
type Mount struct {
	Src, Dst string
	ReadOnly bool `json:"readonly"`
}

// A MountSecret is a secret that was mounted.
type MountSecret struct {
	Value, Target string
}

// A Tar is the stream that a copy step sent.
type Tar struct {
	Entries []TarEntry
	// StreamSHA256 is of the whole stream, in hex; empty if it was not recorded.
	StreamSHA256 string `json:"stream_sha256"`
	// ExtractionFailed is set where GNU tar refused to extract the stream.
	ExtractionFailed bool `json:"gnu_tar_extraction_failed"`
}

// A TarEntry is one header of a tar stream.
type TarEntry struct {
	Name     string
	Type     string // "file", "dir" or "symlink"
	Typeflag string
	Mode     uint32
	UID, GID int
	Uname    string
	Gname    string
	Size     int64
	SHA256   string // of the contents, in hex; file only
	Linkname string
	Mtime    *int64 // seconds since 1970; nil if it was not recorded
}

// A LogLine is one line that the build printed.
type LogLine struct {
	Kind string // "heading" or "note"
	Text string
}

// A CacheName is the name of a cache and of the dataset that holds it.
type CacheName struct {
	Name, Escaped string
}

// A Manifest is a source tree and copies from it.
type Manifest struct {
	Name  string
	Tree  []Entry
	Items []ManifestItem
}

// A ManifestItem is one source of a copy: its manifest, or the error that
// there was.
type ManifestItem struct {
	Path      string
	Exclude   []string
	Sexp      string
	FromFiles string `json:"from_files"` // the paths in it, one a line
	Error     string
}

// Load decodes the recording. Each call returns data of its own. The error is
// never that of a caller: it means that the embedded file is damaged.
func Load() (*Data, error) {
	z, err := gzip.NewReader(bytes.NewReader(recording))
	if err != nil {
		return nil, fmt.Errorf("vectors: %w", err)
	}
	var d Data
	if err := json.NewDecoder(z).Decode(&d); err != nil {
		return nil, fmt.Errorf("vectors: %w", err)
	}
	return &d, nil
}

// raw is a recorded string: a JSON string, or {"base64": ...}.
type raw string

func (r *raw) UnmarshalJSON(b []byte) error {
	if b[0] == '"' {
		return json.Unmarshal(b, (*string)(r))
	}
	var o struct{ Base64 []byte }
	if err := json.Unmarshal(b, &o); err != nil {
		return err
	}
	*r = raw(o.Base64)
	return nil
}

// octal is a mode, recorded as a string of octal digits.
type octal uint32

func (o *octal) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	n, err := strconv.ParseUint(s, 8, 32)
	*o = octal(n)
	return err
}

// Each UnmarshalJSON below decodes into the type itself, apart from fields
// whose recorded form is not that of the Go type: those are shadowed by fields
// of an outer struct.

// UnmarshalJSON implements [json.Unmarshaler].
func (v *Vector) UnmarshalJSON(b []byte) error {
	type plain Vector
	aux := struct {
		*plain
		SpecBase64 []byte `json:"spec_base64"`
	}{plain: (*plain)(v)}
	if err := json.Unmarshal(b, &aux); err != nil {
		return err
	}
	if aux.SpecBase64 != nil {
		v.Spec = string(aux.SpecBase64)
	}
	return nil
}

// UnmarshalJSON implements [json.Unmarshaler].
func (e *Entry) UnmarshalJSON(b []byte) error {
	type plain Entry
	aux := struct {
		*plain
		Mode          *octal
		ContentBase64 []byte `json:"content_base64"`
	}{plain: (*plain)(e), Mode: (*octal)(&e.Mode)}
	if err := json.Unmarshal(b, &aux); err != nil {
		return err
	}
	if aux.ContentBase64 != nil {
		e.Content = string(aux.ContentBase64)
	}
	return nil
}

// UnmarshalJSON implements [json.Unmarshaler].
func (s *Secret) UnmarshalJSON(b []byte) error {
	type plain Secret
	aux := struct {
		*plain
		ValueBase64 []byte `json:"value_base64"`
	}{plain: (*plain)(s)}
	if err := json.Unmarshal(b, &aux); err != nil {
		return err
	}
	if aux.ValueBase64 != nil {
		s.Value = string(aux.ValueBase64)
	}
	return nil
}

// UnmarshalJSON implements [json.Unmarshaler].
func (d *Dockerfiles) UnmarshalJSON(b []byte) error {
	return json.Unmarshal(b, &struct {
		Unix            *Dockerfile `json:"unix"`
		UnixBuildKit    *Dockerfile `json:"unix_buildkit"`
		Windows         *Dockerfile `json:"windows"`
		WindowsBuildKit *Dockerfile `json:"windows_buildkit"`
	}{&d.Unix, &d.UnixBuildKit, &d.Windows, &d.WindowsBuildKit})
}

// UnmarshalJSON implements [json.Unmarshaler].
func (d *Dockerfile) UnmarshalJSON(b []byte) error {
	var e struct{ Error *Error }
	if b[0] == '{' {
		if err := json.Unmarshal(b, &e); err != nil {
			return err
		}
		if d.Error = e.Error; d.Error != nil {
			return nil
		}
	}
	return (*raw)(&d.Text).UnmarshalJSON(b)
}

// UnmarshalJSON implements [json.Unmarshaler].
func (s *Step) UnmarshalJSON(b []byte) error {
	type plain Step
	return json.Unmarshal(b, &struct {
		*plain
		Heading *raw
	}{(*plain)(s), (*raw)(&s.Heading)})
}

// UnmarshalJSON implements [json.Unmarshaler].
func (c *Config) UnmarshalJSON(b []byte) error {
	type plain Config
	aux := struct {
		*plain
		Cwd  *raw
		Argv []raw
	}{plain: (*plain)(c), Cwd: (*raw)(&c.Cwd)}
	if err := json.Unmarshal(b, &aux); err != nil {
		return err
	}
	c.Argv = make([]string, len(aux.Argv))
	for i, a := range aux.Argv {
		c.Argv[i] = string(a)
	}
	return nil
}

// UnmarshalJSON implements [json.Unmarshaler].
func (m *MountSecret) UnmarshalJSON(b []byte) error {
	type plain MountSecret
	return json.Unmarshal(b, &struct {
		*plain
		Value *raw
	}{(*plain)(m), (*raw)(&m.Value)})
}

// UnmarshalJSON implements [json.Unmarshaler].
func (e *TarEntry) UnmarshalJSON(b []byte) error {
	type plain TarEntry
	return json.Unmarshal(b, &struct {
		*plain
		Mode *octal
	}{(*plain)(e), (*octal)(&e.Mode)})
}

// UnmarshalJSON implements [json.Unmarshaler].
func (l *LogLine) UnmarshalJSON(b []byte) error {
	var pair [2]raw
	err := json.Unmarshal(b, &pair)
	l.Kind, l.Text = string(pair[0]), string(pair[1])
	return err
}

// UnmarshalJSON implements [json.Unmarshaler].
func (c *CacheName) UnmarshalJSON(b []byte) error {
	type plain CacheName
	return json.Unmarshal(b, &struct {
		*plain
		Name *raw
	}{(*plain)(c), (*raw)(&c.Name)})
}
