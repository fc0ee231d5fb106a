package kubernetes

import (
	"fmt"
	"strings"
	"testing"

	"github.com/edgebox/edgebox/tests/framework"
)

func TestJobRunsToCompletion(t *testing.T) {
	n := namespace(t)
	n.Apply(`
apiVersion: batch/v1
kind: Job
metadata: {name: three}
spec:
  completions: 3
  parallelism: 2
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: "busybox:e2e", command: [sh, -c, "echo done by $HOSTNAME"]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: hopeless}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: "busybox:e2e", command: ["false"]}]`)
	n.WaitFor("job/three", "Complete")
	if got := n.Get("job/three", "{.status.succeeded}"); got != "3" {
		t.Errorf("%s pods have succeeded, want 3", got)
	}
	if got := n.Kubectl("logs", "-l", "job-name=three"); strings.Count(got, "done by three-") != 3 {
		t.Errorf("logs: %s", got)
	}
	n.WaitFor("job/hopeless", "Failed")
	n.Kubectl("delete", "job", "three")
	framework.Eventually(t, framework.Patience, func() error {
		if left := n.Kubectl("get", "pods", "-l", "job-name=three", "-o", "name"); left != "" {
			return fmt.Errorf("left after the job was deleted: %s", left)
		}
		return nil
	})
}

func TestCronJobStartsJobs(t *testing.T) {
	n := namespace(t)
	n.Apply(`
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec:
  schedule: "* * * * *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers: [{name: c, image: "busybox:e2e", command: ["true"]}]`)
	n.Kubectl("create", "job", "by-hand", "--from=cronjob/tick")
	n.WaitFor("job/by-hand", "Complete")
	framework.Eventually(t, framework.Patience, func() error {
		jobs := n.Get("jobs", `{range .items[?(@.status.succeeded==1)]}{.metadata.name} {end}`)
		if !strings.Contains(jobs, "tick-") {
			return fmt.Errorf("jobs that have succeeded: %s", jobs)
		}
		return nil
	})
}
