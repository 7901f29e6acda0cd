// Package boot tells one boot of this machine from another, so that what only a
// reboot helps against can be noted until there was one.
//
//	if note.Boot != boot.ID() {
//		// the machine was rebooted since
//	}
package boot
