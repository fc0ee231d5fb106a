package databases

import (
	"database/sql"
	"fmt"
	"os"
	"strconv"
	"testing"

	_ "github.com/go-sql-driver/mysql"
)

// MariaDB starts a MariaDB server, which stands for MySQL too.
func MariaDB(t testing.TB, opts Options) *Server {
	t.Helper()
	const program, install = "/usr/sbin/mariadbd", "/usr/bin/mariadb-install-db"
	if _, err := os.Stat(program); err != nil {
		t.Fatal("there is no MariaDB: run scripts/deps.sh")
	}
	s := newServer(t, opts, "nobody")
	data := s.file("data")
	s.prepare(install, "--no-defaults", "--datadir="+data, "--auth-root-authentication-method=normal", "--skip-test-db")
	user := "CREATE USER IF NOT EXISTS 'kine'@'%' IDENTIFIED BY '" + Password + "';\nGRANT ALL ON *.* TO 'kine'@'%'"
	s.args = []string{program, "--no-defaults", "--datadir=" + data, "--bind-address=" + s.opts.Address, "--port=" + strconv.Itoa(s.opts.Port),
		"--socket=" + s.file("sock"), "--init-file=" + s.file("init.sql"), "--innodb-buffer-pool-size=32M", "--skip-name-resolve"}
	if opts.Cert != "" {
		user += " REQUIRE X509"
		s.args = append(s.args, "--ssl-cert="+s.file("server.crt"), "--ssl-key="+s.file("server.key"), "--ssl-ca="+s.file("ca.crt"))
	}
	s.write("init.sql", user+";\n")
	s.exec = func(database, statement string) (string, error) {
		db, err := sql.Open("mysql", fmt.Sprintf("root@unix(%s)/%s", s.file("sock"), database))
		if err != nil {
			return "", err
		}
		defer db.Close()
		_, err = db.Exec(statement)
		return "", err
	}
	s.answers = func() error {
		_, err := s.exec("mysql", "SELECT 1")
		return err
	}
	s.Start()
	return s
}

// MariaDBDSN is the data source of a server.
func MariaDBDSN(address string) string {
	return "mysql://kine:" + Password + "@tcp(" + address + ")/kine"
}
