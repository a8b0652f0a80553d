package metrics

import "time"

// process is what the system tells of this process; 0: it does not.
type process struct {
	openFiles, mostFiles int
	resident             int64 // bytes
	cpu                  time.Duration
}

func (h *Handler) process() process {
	p := readProcess()
	if h.cfg.Files != nil {
		p.openFiles, p.mostFiles = h.cfg.Files()
	}
	return p
}
