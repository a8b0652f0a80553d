package amqpwire

// newTxMethod returns an empty method of class tx, nil where there is
// none of that id.
func newTxMethod(method uint16) Method {
	switch method {
	case MethodTxSelect:
		return new(TxSelect)
	case MethodTxSelectOk:
		return new(TxSelectOk)
	case MethodTxCommit:
		return new(TxCommit)
	case MethodTxCommitOk:
		return new(TxCommitOk)
	case MethodTxRollback:
		return new(TxRollback)
	case MethodTxRollbackOk:
		return new(TxRollbackOk)
	}
	return nil
}

// TxSelect makes the channel transactional.
type TxSelect struct{}

// ID implements Method.
func (*TxSelect) ID() (class, method uint16) { return ClassTx, MethodTxSelect }

func (*TxSelect) decode(*reader) {}
func (*TxSelect) encode(*writer) {}

// TxSelectOk answers TxSelect.
type TxSelectOk struct{}

// ID implements Method.
func (*TxSelectOk) ID() (class, method uint16) { return ClassTx, MethodTxSelectOk }

func (*TxSelectOk) decode(*reader) {}
func (*TxSelectOk) encode(*writer) {}

// TxCommit commits, and begins the next transaction.
type TxCommit struct{}

// ID implements Method.
func (*TxCommit) ID() (class, method uint16) { return ClassTx, MethodTxCommit }

func (*TxCommit) decode(*reader) {}
func (*TxCommit) encode(*writer) {}

// TxCommitOk answers TxCommit.
type TxCommitOk struct{}

// ID implements Method.
func (*TxCommitOk) ID() (class, method uint16) { return ClassTx, MethodTxCommitOk }

func (*TxCommitOk) decode(*reader) {}
func (*TxCommitOk) encode(*writer) {}

// TxRollback gives up what was published and settled since the last commit.
type TxRollback struct{}

// ID implements Method.
func (*TxRollback) ID() (class, method uint16) { return ClassTx, MethodTxRollback }

func (*TxRollback) decode(*reader) {}
func (*TxRollback) encode(*writer) {}

// TxRollbackOk answers TxRollback.
type TxRollbackOk struct{}

// ID implements Method.
func (*TxRollbackOk) ID() (class, method uint16) { return ClassTx, MethodTxRollbackOk }

func (*TxRollbackOk) decode(*reader) {}
func (*TxRollbackOk) encode(*writer) {}
