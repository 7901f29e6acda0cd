package spec

import (
	"fmt"

	"obuilder.org/obuilder/spec/sexp"
)

// ParseEnv reads the environment that is stored with the result of a base
// image: ((env ((NAME VALUE) ...))), newest first. Errors are [*Error].
func ParseEnv(data []byte) ([]EnvVar, error) {
	n, err := sexp.Parse("env", data)
	if err != nil {
		return nil, err
	}
	const form = "it is written ((env ((NAME VALUE) ...)))"
	if len(n.List) != 1 || n.List[0].Head() != "env" || len(n.List[0].List) != 2 || !n.List[0].List[1].IsList {
		return nil, fail(n, form, "expected an environment, got %s", excerpt(n))
	}
	vars := n.List[0].List[1].List
	env := make([]EnvVar, len(vars))
	for i, v := range vars {
		if len(v.List) != 2 || v.List[0].IsList || v.List[1].IsList {
			return nil, fail(v, form, "expected a variable (NAME VALUE), got %s", excerpt(v))
		}
		env[i] = EnvVar{v.List[0].Atom, v.List[1].Atom}
	}
	return env, nil
}

// FormatEnv returns env as [ParseEnv] reads it.
func FormatEnv(env []EnvVar) string {
	var w sexp.Writer
	w.Open()
	w.Open()
	w.Atom("env")
	w.Open()
	for _, v := range env {
		pair(&w, v.Name, v.Value)
	}
	w.Close()
	w.Close()
	w.Close()
	return string(w.Bytes())
}

// EscapeCache returns the name of the dataset that holds a cache: "c-" and the
// name, in which each byte but letters, digits, dot, underscore and minus is a
// percent sign and its value in hexadecimal. Different names give different
// datasets but for those with control characters, which are written with one
// digit: ocurrent/obuilder has it so.
func EscapeCache(name string) string {
	b := []byte("c-")
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
			b = append(b, c)
		default:
			b = fmt.Appendf(b, "%%%x", c)
		}
	}
	return string(b)
}
