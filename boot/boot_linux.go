package boot

import (
	"os"
	"strings"
)

// ID is the same until the machine is rebooted; "" when that is not known.
func ID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id") // proc_sys_kernel(5)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}
