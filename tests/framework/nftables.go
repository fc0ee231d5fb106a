package framework

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// NFTables lists the nftables tables of the host, as "family name", sorted. It speaks netlink, since hosts have no nft.
func (h *Host) NFTables() ([]string, error) {
	var tables []string
	err := h.inNetwork(func() error {
		var err error
		tables, err = nftTables()
		return err
	})
	return tables, err
}

// nftTables asks the kernel in the network namespace of the caller's thread.
func nftTables() ([]string, error) {
	const nfgenmsg = 4 // struct nfgenmsg: family, version, resource id
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	req := make([]byte, unix.NLMSG_HDRLEN+nfgenmsg)
	binary.NativeEndian.PutUint32(req[0:], uint32(len(req)))
	binary.NativeEndian.PutUint16(req[4:], unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETTABLE)
	binary.NativeEndian.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	families := map[byte]string{1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
	var tables []string
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return nil, err
		}
		msgs, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				slices.Sort(tables)
				return tables, nil
			case unix.NLMSG_ERROR:
				return nil, errors.New("the kernel refused to list nftables tables")
			}
			family, attrs := families[m.Data[0]], m.Data[nfgenmsg:]
			for len(attrs) >= 4 {
				size, kind := int(binary.NativeEndian.Uint16(attrs)), binary.NativeEndian.Uint16(attrs[2:])
				if kind == unix.NFTA_TABLE_NAME {
					tables = append(tables, family+" "+strings.TrimRight(string(attrs[4:size]), "\x00"))
				}
				attrs = attrs[min(len(attrs), (size+3)&^3):]
			}
		}
	}
}
