package datastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver"
)

const (
	upkeepEvery = 5 * time.Minute // as the API server compacts
	// A file is rewritten when so much of it is free, and more than half. It takes no writes meanwhile: 1 s for 100 MB.
	defragAbove = 64 << 20
)

// lookAfter keeps the database small, and usable, until ctx ends.
func (e *Etcd) lookAfter(ctx context.Context, s *etcdserver.EtcdServer) {
	t := time.NewTicker(upkeepEvery)
	defer t.Stop()
	for {
		if err := upkeep(ctx, s); err != nil && ctx.Err() == nil {
			slog.Error("etcd's database needs attention", "err", err)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// upkeep gives free space back when that pays. A database that takes no more writes, because it has reached its quota, it
// makes as small as can be, and then lets it take writes again.
func upkeep(ctx context.Context, s *etcdserver.EtcdServer) error {
	full := hasAlarm(s, etcdserverpb.AlarmType_NOSPACE)
	if full { // in which the API server's compaction, which is a write, fails as well
		_, err := s.Compact(ctx, &etcdserverpb.CompactionRequest{Revision: s.KV().Rev(), Physical: true})
		if err != nil {
			slog.Debug("etcd was not compacted", "err", err) // as it is up to the newest revision already
		}
	}
	size, free := s.Backend().Size(), s.Backend().Size()-s.Backend().SizeInUse()
	if full || free > defragAbove && free > size/2 {
		if err := s.Defragment(); err != nil {
			return fmt.Errorf("defragment: %w", err)
		}
		slog.Info("etcd's database was rewritten", "before", size, "after", s.Backend().Size())
	}
	if !full {
		return nil
	}
	if s.Backend().Size() > s.Cfg.QuotaBackendBytes/10*9 {
		return alarm(s)
	}
	_, err := s.Alarm(ctx, &etcdserverpb.AlarmRequest{Action: etcdserverpb.AlarmRequest_DEACTIVATE,
		MemberID: uint64(s.MemberID()), Alarm: etcdserverpb.AlarmType_NOSPACE})
	return err
}

func hasAlarm(s *etcdserver.EtcdServer, kind etcdserverpb.AlarmType) bool {
	for _, a := range s.Alarms() {
		if a.Alarm == kind && a.MemberID == uint64(s.MemberID()) {
			return true
		}
	}
	return false
}

// alarm is what is wrong with this member's database, if anything.
func alarm(s *etcdserver.EtcdServer) error {
	switch {
	case hasAlarm(s, etcdserverpb.AlarmType_CORRUPT):
		return errors.New("etcd's database differs from that of the other members: remove its folder on this server, and have it join again")
	case hasAlarm(s, etcdserverpb.AlarmType_NOSPACE):
		return fmt.Errorf("etcd's database has reached its limit of %d MiB and takes no writes: delete objects", s.Cfg.QuotaBackendBytes>>20)
	}
	return nil
}
