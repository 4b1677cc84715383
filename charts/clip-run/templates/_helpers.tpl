{{/*
A value as JSON, the only way a value reaches a manifest. JSON is YAML except for the characters YAML does not allow
unescaped inside quotes (DEL, C1 controls with the line break U+0085, U+FFFE, U+FFFF); they are escaped here.
*/}}
{{- define "clip-run.json" -}}
{{- $json := toJson . -}}
{{- range $code := untilStep 127 160 1 -}}
{{- $json = replace (printf "%c" $code) (printf "\\u%04x" $code) $json -}}
{{- end -}}
{{- range $code := list 65534 65535 -}}
{{- $json = replace (printf "%c" $code) (printf "\\u%04x" $code) $json -}}
{{- end -}}
{{- $json -}}
{{- end -}}

{{/* Labels that select the pods of a component: a dict of the root context and the component. */}}
{{- define "clip-run.selector" -}}
app.kubernetes.io/name: clip-run
app.kubernetes.io/instance: {{ include "clip-run.json" .root.Values.spec.name }}
app.kubernetes.io/component: {{ include "clip-run.json" .component }}
clipctl.dev/run: {{ include "clip-run.json" .root.Values.spec.name }}
{{- end -}}

{{/* Labels of every object: a dict of the root context and the component. */}}
{{- define "clip-run.labels" -}}
{{ include "clip-run.selector" . }}
app.kubernetes.io/version: {{ include "clip-run.json" .root.Chart.AppVersion }}
app.kubernetes.io/part-of: clipctl
app.kubernetes.io/managed-by: {{ include "clip-run.json" .root.Release.Service }}
helm.sh/chart: {{ include "clip-run.json" (printf "%s-%s" .root.Chart.Name .root.Chart.Version) }}
{{- end -}}

{{- define "clip-run.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "clip-run.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: ["ALL"]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/*
Tolerations: a pod on a node that stopped answering is replaced after `seconds`, not after Kubernetes' five minutes;
then what the user gave.
*/}}
{{- define "clip-run.tolerations" -}}
{{- range $key := list "node.kubernetes.io/not-ready" "node.kubernetes.io/unreachable" }}
- key: {{ $key }}
  operator: Exists
  effect: NoExecute
  tolerationSeconds: {{ $.seconds }}
{{- end }}
{{- range .root.Values.spec.scale.tolerations }}
- operator: {{ include "clip-run.json" .operator }}
  {{- with .key }}
  key: {{ include "clip-run.json" . }}
  {{- end }}
  {{- with .value }}
  value: {{ include "clip-run.json" . }}
  {{- end }}
  {{- with .effect }}
  effect: {{ include "clip-run.json" . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Fields every pod of the run shares. */}}
{{- define "clip-run.podBasics" -}}
serviceAccountName: {{ include "clip-run.json" .Values.derived.serviceAccount }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "clip-run.podSecurityContext" . | nindent 2 }}
{{- with .Values.spec.scale.priority_class }}
priorityClassName: {{ include "clip-run.json" . }}
{{- end }}
{{- if .Values.spec.scale.image_pull_secrets }}
imagePullSecrets:
  {{- range .Values.spec.scale.image_pull_secrets }}
  - name: {{ include "clip-run.json" . }}
  {{- end }}
{{- end }}
{{- end -}}
