//go:build !unix

package file

import "syscall"

// errQuota is ERROR_DISK_FULL, which is not syscall.ENOSPC on Windows.
const errQuota = syscall.Errno(112)
