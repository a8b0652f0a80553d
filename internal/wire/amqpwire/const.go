package amqpwire

// ProtocolHeader is what a client sends first (AMQP 0-9-1 §4.2.2). A server that
// does not speak what was asked for answers with it and closes.
var ProtocolHeader = [8]byte{'A', 'M', 'Q', 'P', 0, 0, 9, 1}

// Frame types and the octet that ends a frame (AMQP 0-9-1 §4.2.3).
const (
	FrameMethod    = 1
	FrameHeader    = 2
	FrameBody      = 3
	FrameHeartbeat = 8
	FrameEnd       = 0xCE
)

// Sizes, in bytes.
const (
	FrameOverhead   = 8      // of a frame beside its payload: header 7, end 1
	MinFrameSize    = 4096   // every peer must accept frames up to this (§4.2.3, frame-min-size)
	PreAuthFrameMax = 8192   // limit until the connection is open, as in RabbitMQ
	DefaultFrameMax = 131072 // limit to propose in tune, as in RabbitMQ
	MaxShortString  = 255    // of a short string (§4.2.5.3)
)

const frameHeaderSize = 7

// MaxElements is how many names and values a field table may hold, those in
// nested tables and arrays included. A value may be as short as one byte, so the
// size alone does not bound what a table grows to in memory.
const MaxElements = 65536

// Classes. Access is of AMQP 0-8, which old clients still send; Confirm is
// RabbitMQ's.
const (
	ClassConnection uint16 = 10
	ClassChannel    uint16 = 20
	ClassAccess     uint16 = 30
	ClassExchange   uint16 = 40
	ClassQueue      uint16 = 50
	ClassBasic      uint16 = 60
	ClassConfirm    uint16 = 85
	ClassTx         uint16 = 90
)

// Methods of class connection.
const (
	MethodConnectionStart          uint16 = 10
	MethodConnectionStartOk        uint16 = 11
	MethodConnectionSecure         uint16 = 20
	MethodConnectionSecureOk       uint16 = 21
	MethodConnectionTune           uint16 = 30
	MethodConnectionTuneOk         uint16 = 31
	MethodConnectionOpen           uint16 = 40
	MethodConnectionOpenOk         uint16 = 41
	MethodConnectionClose          uint16 = 50
	MethodConnectionCloseOk        uint16 = 51
	MethodConnectionBlocked        uint16 = 60
	MethodConnectionUnblocked      uint16 = 61
	MethodConnectionUpdateSecret   uint16 = 70
	MethodConnectionUpdateSecretOk uint16 = 71
)

// Methods of class channel.
const (
	MethodChannelOpen    uint16 = 10
	MethodChannelOpenOk  uint16 = 11
	MethodChannelFlow    uint16 = 20
	MethodChannelFlowOk  uint16 = 21
	MethodChannelClose   uint16 = 40
	MethodChannelCloseOk uint16 = 41
)

// Methods of class access.
const (
	MethodAccessRequest   uint16 = 10
	MethodAccessRequestOk uint16 = 11
)

// Methods of class exchange. Unbind-ok is 51, not 41.
const (
	MethodExchangeDeclare   uint16 = 10
	MethodExchangeDeclareOk uint16 = 11
	MethodExchangeDelete    uint16 = 20
	MethodExchangeDeleteOk  uint16 = 21
	MethodExchangeBind      uint16 = 30
	MethodExchangeBindOk    uint16 = 31
	MethodExchangeUnbind    uint16 = 40
	MethodExchangeUnbindOk  uint16 = 51
)

// Methods of class queue.
const (
	MethodQueueDeclare   uint16 = 10
	MethodQueueDeclareOk uint16 = 11
	MethodQueueBind      uint16 = 20
	MethodQueueBindOk    uint16 = 21
	MethodQueuePurge     uint16 = 30
	MethodQueuePurgeOk   uint16 = 31
	MethodQueueDelete    uint16 = 40
	MethodQueueDeleteOk  uint16 = 41
	MethodQueueUnbind    uint16 = 50
	MethodQueueUnbindOk  uint16 = 51
)

// Methods of class basic.
const (
	MethodBasicQos          uint16 = 10
	MethodBasicQosOk        uint16 = 11
	MethodBasicConsume      uint16 = 20
	MethodBasicConsumeOk    uint16 = 21
	MethodBasicCancel       uint16 = 30
	MethodBasicCancelOk     uint16 = 31
	MethodBasicPublish      uint16 = 40
	MethodBasicReturn       uint16 = 50
	MethodBasicDeliver      uint16 = 60
	MethodBasicGet          uint16 = 70
	MethodBasicGetOk        uint16 = 71
	MethodBasicGetEmpty     uint16 = 72
	MethodBasicAck          uint16 = 80
	MethodBasicReject       uint16 = 90
	MethodBasicRecoverAsync uint16 = 100
	MethodBasicRecover      uint16 = 110
	MethodBasicRecoverOk    uint16 = 111
	MethodBasicNack         uint16 = 120
)

// Methods of class confirm.
const (
	MethodConfirmSelect   uint16 = 10
	MethodConfirmSelectOk uint16 = 11
)

// Methods of class tx.
const (
	MethodTxSelect     uint16 = 10
	MethodTxSelectOk   uint16 = 11
	MethodTxCommit     uint16 = 20
	MethodTxCommitOk   uint16 = 21
	MethodTxRollback   uint16 = 30
	MethodTxRollbackOk uint16 = 31
)
