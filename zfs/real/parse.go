package real

import (
	"fmt"
	"iter"
	"strconv"
	"strings"

	"obuilder.org/obuilder/zfs"
)

// parseList reads the output of zfs list -Hp -o name,...: lines of a name and
// n values with a tab between each.
func parseList(out []byte, n int) ([]zfs.Row, error) {
	var rows []zfs.Row
	for line := range lines(out) {
		fields := strings.Split(line, "\t")
		if len(fields) != n+1 || fields[0] == "" {
			return nil, fmt.Errorf("line %d of the list is not a name and %d values: %q", len(rows)+1, n, line)
		}
		rows = append(rows, zfs.Row{Name: fields[0], Values: fields[1:]})
	}
	return rows, nil
}

// parseGet reads the output of zfs get -Hp -o name,property,value,source for
// one name. The value of a user's property may have tabs and newlines in it.
func parseGet(out []byte, name string) ([]zfs.Value, error) {
	var values []zfs.Value
	record := ""
	end := func() error {
		fields := strings.Split(record, "\t")
		if len(fields) < 4 || fields[1] == "" {
			return fmt.Errorf("record %d is not a name, a property, a value and a source: %q", len(values)+1, record)
		}
		last := len(fields) - 1
		values = append(values, zfs.Value{
			Name:     fields[0],
			Property: fields[1],
			Value:    strings.Join(fields[2:last], "\t"),
			Source:   fields[last],
		})
		return nil
	}
	for line := range lines(out) {
		switch {
		case record == "" && !strings.HasPrefix(line, name+"\t"):
			return nil, fmt.Errorf("a line does not begin with %s: %q", name, line)
		case record == "":
			record = line
		case strings.HasPrefix(line, name+"\t"):
			if err := end(); err != nil {
				return nil, err
			}
			record = line
		default:
			record += "\n" + line
		}
	}
	if record != "" {
		if err := end(); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// parsePool reads the one line of zpool list -Hp -o
// size,allocated,free,capacity,health. A pool whose devices are missing has
// "-" for sizes.
func parsePool(out []byte) (zfs.PoolStatus, error) {
	line := strings.TrimSuffix(string(out), "\n")
	fields := strings.Split(line, "\t")
	if len(fields) != 5 || strings.Contains(line, "\n") {
		return zfs.PoolStatus{}, fmt.Errorf("not a line of five values: %q", out)
	}
	var numbers [4]uint64
	for i := range numbers {
		if fields[i] == "-" {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSuffix(fields[i], "%"), 10, 63)
		if err != nil {
			return zfs.PoolStatus{}, fmt.Errorf("value %d of %q: %w", i+1, line, err)
		}
		numbers[i] = n
	}
	return zfs.PoolStatus{
		Size:      numbers[0],
		Allocated: numbers[1],
		Free:      numbers[2],
		Capacity:  int(numbers[3]),
		Health:    fields[4],
	}, nil
}

// lines yields the lines of out; there is none in empty output.
func lines(out []byte) iter.Seq[string] {
	if len(out) == 0 {
		return func(func(string) bool) {}
	}
	return strings.SplitSeq(strings.TrimSuffix(string(out), "\n"), "\n")
}
