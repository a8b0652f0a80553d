package journal

// An EpochFilter tells superseded batches from valid ones. Every batch of a
// log, in order, must be shown to it. The zero value has seen none.
type EpochFilter struct {
	highest uint64
}

// NewEpochFilter returns a filter that has seen the epoch highest, for a
// reader that does not begin at the start of the log.
func NewEpochFilter(highest uint64) EpochFilter { return EpochFilter{highest} }

// Superseded reports whether a batch of this epoch is to be left out, because
// one of a higher epoch came before it.
func (f *EpochFilter) Superseded(epoch uint64) bool {
	if epoch < f.highest {
		return true
	}
	f.highest = epoch
	return false
}

// Highest is the highest epoch seen, 0 if there was none.
func (f *EpochFilter) Highest() uint64 { return f.highest }
