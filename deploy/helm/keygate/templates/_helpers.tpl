{{/* The name of everything: the release's, with the chart's where that does not have it. */}}
{{- define "keygate.name" -}}
{{- if contains "keygate" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-keygate" (.Release.Name | trunc 32 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* What finds the gateways. It never changes between versions. */}}
{{- define "keygate.selector" -}}
app.kubernetes.io/name: keygate
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end -}}

{{- define "keygate.labels" -}}
app.kubernetes.io/name: keygate
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "keygate.image" -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}

{{/* The config, once it has what the chart relies on. */}}
{{- define "keygate.config" -}}
{{- $config := required "config is empty; pass your keygate.toml by --set-file config=FILE" .Values.config -}}
{{- if not (regexMatch "(?m)^public_health = true" $config) -}}
{{- fail "config: the probes ask /readyz and /healthz on the data port; add the line public_health = true" -}}
{{- end -}}
{{- if regexMatch "(?m)^url = \"postgres(ql)?://[^@/\"]*:[^@/\"]*@" $config -}}
{{- fail "config: the url of the database has a password; put it into the Secret of database.passwordSecret" -}}
{{- end -}}
{{- $config -}}
{{- end -}}

{{- define "keygate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
# The volume and the Secrets are readable by the gateway's group.
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "keygate.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* A key of a Secret as a file of a projected volume. */}}
{{- define "keygate.secretFile" -}}
- secret:
    name: {{ .secret.name }}
    items:
      - key: {{ .secret.key }}
        path: {{ .path }}
{{- end -}}
