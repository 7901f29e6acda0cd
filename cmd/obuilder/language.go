package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"obuilder.org/obuilder/console"
	"obuilder.org/obuilder/spec"
)

func (a *app) dockerfileCommand() *cobra.Command {
	var f jobFlags
	var buildKit bool
	var escape string
	cmd := &cobra.Command{
		Use:     "dockerfile -f SPEC",
		Short:   "Convert a spec to a Dockerfile",
		Example: "  obuilder dockerfile -f examples/hello.spec\n  obuilder dockerfile --buildkit -f my.spec",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if escape != "unix" && escape != "windows" {
				return &console.UsageError{Err: fmt.Errorf("--escape=%s: it is unix or windows", escape)}
			}
			s, err := a.readSpec(f.file)
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
	cmd.Flags().StringVarP(&f.file, "file", "f", "", "the spec; - for standard input")
	cmd.Flags().BoolVar(&buildKit, "buildkit", false, "use BuildKit's cache and secret mounts")
	cmd.Flags().StringVar(&escape, "escape", "unix", "how paths are escaped: unix or windows")
	return cmd
}

func (a *app) fmtCommand() *cobra.Command {
	var write, check bool
	cmd := &cobra.Command{
		Use:   "fmt [FILE...]",
		Short: "Print specs prettily, with their comments",
		Long: `Fmt prints specs as people like to read them and keeps their comments. It
reads standard input when no file is named.`,
		Example: "  obuilder fmt my.spec\n  obuilder fmt -w *.spec\n  obuilder fmt --check *.spec",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{"-"}
			}
			changed := 0
			for _, file := range args {
				data, name, err := a.readInput(file)
				if err != nil {
					return err
				}
				pretty, err := spec.Format(name, data)
				if err != nil {
					return err
				}
				same := bytes.Equal(data, pretty)
				switch {
				case check && !same:
					changed++
					a.console.Printf("%s\n", name)
				case check:
				case write && file != "-":
					if !same {
						if err := replaceFile(file, pretty); err != nil {
							return err
						}
					}
				default:
					a.console.Printf("%s", pretty)
				}
			}
			if changed > 0 {
				return &console.UsageError{Err: fmt.Errorf("%d files are not formatted", changed), Advice: "obuilder fmt -w formats them"}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&write, "write", "w", false, "write the files instead of printing")
	cmd.Flags().BoolVar(&check, "check", false, "only name the files that are not formatted, and fail if there are any")
	return cmd
}

// replaceFile writes a file so that a crash leaves the old one or the new one.
func replaceFile(name string, data []byte) error {
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
		Use:     "version",
		Short:   "Print the version",
		Example: "  obuilder version",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			version := "(devel)"
			if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
				version = info.Main.Version
			}
			a.console.Printf("obuilder %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
}
