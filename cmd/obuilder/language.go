package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"obuilder.org/obuilder/console"
	"obuilder.org/obuilder/spec"
)

func (a *app) dockerfileCommand() *cobra.Command {
	var file string
	var buildKit bool
	escape := "unix"
	cmd := &cobra.Command{
		Use:               "dockerfile -f SPEC",
		Short:             "Convert a spec to a Dockerfile",
		Example:           "  obuilder dockerfile -f examples/hello.spec\n  obuilder dockerfile --buildkit -f my.spec",
		Args:              console.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			s, err := readSpec(file)
			if err != nil {
				return err
			}
			text, err := s.Dockerfile(spec.DockerOptions{BuildKit: buildKit, Windows: escape == "windows"})
			if err != nil {
				return err
			}
			a.console.Printf("%s", text)
			return nil
		},
	}
	addSpecFlag(cmd, &file)
	cmd.Flags().BoolVar(&buildKit, "buildkit", false, "use BuildKit's cache and secret mounts")
	console.ChoiceFlag(cmd, &escape, "escape", "how paths are escaped", "unix", "windows")
	return cmd
}

// A formatted is a spec before and after.
type formatted struct {
	file, name   string
	data, pretty []byte
}

func (f formatted) same() bool { return bytes.Equal(f.data, f.pretty) }

func (a *app) fmtCommand() *cobra.Command {
	var write, check bool
	cmd := &cobra.Command{
		Use:   "fmt [FILE...]",
		Short: "Print specs prettily, with their comments",
		Long: `Fmt prints specs as people like to read them and keeps their comments. It
reads standard input when no file is named. When one of the files is not a spec,
none is printed or written.`,
		Example: "  obuilder fmt my.spec\n  obuilder fmt -w *.spec\n  obuilder fmt --check *.spec",
		RunE: func(_ *cobra.Command, files []string) error {
			if write && (len(files) == 0 || slices.Contains(files, "-")) {
				return usage("-w cannot write standard input", "name the files to write")
			}
			if len(files) == 0 {
				files = []string{"-"}
			}
			var specs []formatted
			for _, file := range files {
				data, name, err := readInput(file)
				if err != nil {
					return err
				}
				pretty, err := spec.Format(name, data)
				if err != nil {
					return err
				}
				specs = append(specs, formatted{file, name, data, pretty})
			}
			switch {
			case check:
				return a.checkFormatted(specs)
			case write:
				return writeFormatted(specs)
			}
			for _, f := range specs {
				a.console.Printf("%s", f.pretty)
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&write, "write", "w", false, "write the files instead of printing")
	cmd.Flags().BoolVar(&check, "check", false, "only name the files that are not formatted, and fail if there are any")
	cmd.MarkFlagsMutuallyExclusive("write", "check")
	return cmd
}

func (a *app) checkFormatted(specs []formatted) error {
	n := 0
	for _, f := range specs {
		if !f.same() {
			n++
			a.console.Printf("%s\n", f.name)
		}
	}
	if n == 0 {
		return nil
	}
	return usage(english.Plural(n, "file", "")+" not formatted", "obuilder fmt -w formats them")
}

func writeFormatted(specs []formatted) error {
	for _, f := range specs {
		if f.same() {
			continue
		}
		if err := replaceFile(f.file, f.pretty); err != nil {
			return err
		}
	}
	return nil
}

// replaceFile writes the file that name leads to, so that a crash leaves the
// old one or the new one.
func replaceFile(name string, data []byte) error {
	name, err := filepath.EvalSymlinks(name)
	if err != nil {
		return err
	}
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), ".obuilder-fmt-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(info.Mode().Perm()), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "version",
		Short:             "Print the version",
		Example:           "  obuilder version",
		Args:              console.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			a.console.Printf("%s\n", console.Version("obuilder"))
			return nil
		},
	}
}
