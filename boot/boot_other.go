//go:build !linux && !darwin

package boot

// ID is the same until the machine is rebooted; "" when that is not known.
func ID() string { return "" }
