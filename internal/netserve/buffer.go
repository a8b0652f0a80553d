package netserve

import "sync"

// Sizes of buffers, bytes.
const (
	// BufferSize is the size of a connection's input and output buffers while
	// there is something in them.
	BufferSize = 128 << 10
	// preAuthBuffer is the most that is buffered of a peer that has not logged in;
	// it begins with smallBuffer.
	preAuthBuffer = 64 << 10
	smallBuffer   = 4 << 10
)

// The pools are shared by all connections: those that are idle hold nothing.
var (
	largePool = sync.Pool{New: func() any { return new([BufferSize]byte) }}
	smallPool = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
)

func takeBuffer(size int) []byte {
	switch size {
	case BufferSize:
		return largePool.Get().(*[BufferSize]byte)[:]
	case smallBuffer:
		return smallPool.Get().(*[smallBuffer]byte)[:]
	}
	return make([]byte, size)
}

// giveBuffer takes back what takeBuffer gave, whole.
func giveBuffer(b []byte) {
	switch len(b) {
	case BufferSize:
		largePool.Put((*[BufferSize]byte)(b))
	case smallBuffer:
		smallPool.Put((*[smallBuffer]byte)(b))
	}
}
