package real

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"obuilder.org/obuilder/zfs"
)

func TestParseList(t *testing.T) {
	for _, c := range []struct {
		out  string
		n    int
		want []zfs.Row
	}{
		{"", 0, nil},
		{"", 3, nil},
		{"t\nt/a b\nt@s\n", 0, []zfs.Row{{Name: "t"}, {Name: "t/a b"}, {Name: "t@s"}}},
		{"t\t0\t-\nt/a\t\tx y\n", 2, []zfs.Row{{Name: "t", Values: []string{"0", "-"}}, {Name: "t/a", Values: []string{"", "x y"}}}},
	} {
		got, err := parseList([]byte(c.out), c.n)
		if err != nil {
			t.Errorf("%q: %v", c.out, err)
		}
		for i := range c.want {
			if c.want[i].Values == nil {
				c.want[i].Values = []string{}
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.out, diff)
		}
	}
	for _, c := range []struct {
		out string
		n   int
	}{
		{"t\n", 1},
		{"t\t1\n", 0},
		{"t\t1\t2\n", 1},
		{"t\tvalue of\ntwo lines\n", 1},
		{"\n", 0},
		{"\tx\n", 1},
		{"t\t1\n\nt/a\t1\n", 1},
	} {
		if rows, err := parseList([]byte(c.out), c.n); err == nil {
			t.Errorf("%q with %d values: %q", c.out, c.n, rows)
		}
	}
}

func TestParseGet(t *testing.T) {
	got, err := parseGet([]byte("t/a\tused\t24576\t-\nt/a\tu:k\ta\tb\nt/b\tx\n\tlocal\nt/a\tu:e\t\tinherited from t\n"), "t/a")
	if err != nil {
		t.Fatal(err)
	}
	want := []zfs.Value{
		{Name: "t/a", Property: "used", Value: "24576", Source: "-"},
		{Name: "t/a", Property: "u:k", Value: "a\tb\nt/b\tx\n", Source: "local"},
		{Name: "t/a", Property: "u:e", Value: "", Source: "inherited from t"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, out := range []string{"t/b\tused\t1\t-\n", "t/a\tused\t1\n", "t/a\n", "\n", "t/a\t\t1\t-\n"} {
		if values, err := parseGet([]byte(out), "t/a"); err == nil {
			t.Errorf("%q: %+v", out, values)
		}
	}
}

func TestParsePool(t *testing.T) {
	for out, want := range map[string]zfs.PoolStatus{
		"1006632960\t658944\t1005974016\t0\tONLINE\n": {Size: 1006632960, Allocated: 658944, Free: 1005974016, Health: "ONLINE"},
		"100\t86\t14\t86%\tDEGRADED\n":                {Size: 100, Allocated: 86, Free: 14, Capacity: 86, Health: "DEGRADED"},
		"-\t-\t-\t-\tFAULTED\n":                       {Health: "FAULTED"},
	} {
		if got, err := parsePool([]byte(out)); err != nil || got != want {
			t.Errorf("%q: %+v, %v", out, got, err)
		}
	}
	for _, out := range []string{"", "\n", "1\t2\t3\t4\n", "1\t2\t3\t4\tONLINE\n1\t2\t3\t4\tONLINE\n", "a\t2\t3\t4\tONLINE\n", "-1\t2\t3\t4\tONLINE\n", "1\t2\t3\t4\t5\t6\n"} {
		if got, err := parsePool([]byte(out)); err == nil {
			t.Errorf("%q: %+v", out, got)
		}
	}
}

// Whatever zfs prints, each row is a whole line of it, and every line is a row.
func FuzzParseList(f *testing.F) {
	f.Add([]byte("t\t1\nt/a\t-\n"), 1)
	f.Add([]byte("t\nt@s\n"), 0)
	f.Add([]byte("t\ta\nb\n"), 1)
	f.Add([]byte("\t\n\n"), 1)
	f.Fuzz(func(t *testing.T, out []byte, n int) {
		n = n & 7
		rows, err := parseList(out, n)
		if err != nil {
			if rows != nil {
				t.Fatalf("rows with an error: %q", rows)
			}
			return
		}
		var b strings.Builder
		for _, row := range rows {
			if row.Name == "" || len(row.Values) != n {
				t.Fatalf("row %q", row)
			}
			b.WriteString(strings.Join(append([]string{row.Name}, row.Values...), "\t") + "\n")
		}
		if got, want := b.String(), strings.TrimSuffix(string(out), "\n"); strings.TrimSuffix(got, "\n") != want {
			t.Fatalf("%q was read as %q", want, got)
		}
	})
}

// Values come back whole, whatever is in them but a line that looks like the
// next record.
func FuzzParseGet(f *testing.F) {
	f.Add("a", "v w", "local")
	f.Add("u:k", "a\tb\nc", "inherited from t")
	f.Add("u:k", "", "-")
	f.Fuzz(func(t *testing.T, property, value, source string) {
		const name = "t/a"
		if property == "" || strings.ContainsAny(property+source, "\t\n") || strings.Contains("\n"+value, "\n"+name+"\t") {
			return
		}
		want := []zfs.Value{
			{Name: name, Property: property, Value: value, Source: source},
			{Name: name, Property: "used", Value: "1", Source: "-"},
		}
		var b strings.Builder
		for _, v := range want {
			b.WriteString(v.Name + "\t" + v.Property + "\t" + v.Value + "\t" + v.Source + "\n")
		}
		got, err := parseGet([]byte(b.String()), name)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("got  %q, %v\nwant %q", got, err, want)
		}
	})
}
