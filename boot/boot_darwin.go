package boot

import "golang.org/x/sys/unix"

// ID is the same until the machine is rebooted; "" when that is not known.
func ID() string {
	id, err := unix.Sysctl("kern.bootsessionuuid") // xnu, bsd/kern/kern_mib.c
	if err != nil {
		return ""
	}
	return id
}
