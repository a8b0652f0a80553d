//go:build unix

package file

import "syscall"

// errQuota is a full quota: it is no different from a full medium.
const errQuota = syscall.EDQUOT
