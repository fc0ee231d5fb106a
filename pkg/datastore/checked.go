package datastore

import (
	"context"
	"errors"
	"fmt"

	"github.com/k3s-io/kine/pkg/server"
)

// checkedBackend is for databases elsewhere. It does not trust a create that reports success: in kine 0.17 one whose
// insert failed, as on a full disk, returns the current revision and no error.
type checkedBackend struct{ server.Backend }

func (b checkedBackend) Create(ctx context.Context, key string, value []byte, lease int64) (int64, error) {
	rev, err := b.Backend.Create(ctx, key, value, lease)
	if err != nil {
		return rev, err
	}
	_, kv, err := b.Get(ctx, key, rev, true)
	if err != nil {
		return 0, fmt.Errorf("read back what was created: %w", err)
	}
	if kv == nil || kv.ModRevision != rev {
		return 0, errors.New("the database did not take a new object: is its disk full?")
	}
	return rev, nil
}
