# Least rights of a bootwell reader in gs://acme.
# PROJECT is that of the bucket; MEMBER gets them, such as serviceAccount:web@PROJECT.iam.gserviceaccount.com
gcloud iam roles create acme_web_reader_read --project="${PROJECT:?}" --permissions=storage.objects.get
gcloud storage buckets add-iam-policy-binding gs://acme --member="${MEMBER:?}" --role="projects/$PROJECT/roles/acme_web_reader_read" \
  --condition='^;^title=acme_web_reader_read;expression=resource.name.startsWith("projects/_/buckets/acme/objects/prod/tuf/") || resource.name.startsWith("projects/_/buckets/acme/objects/prod/manifests/") || resource.name.startsWith("projects/_/buckets/acme/objects/prod/reports/") || resource.name.startsWith("projects/_/buckets/acme/objects/prod/logs/")'
gcloud iam roles create acme_web_reader_list --project="${PROJECT:?}" --permissions=storage.objects.list
gcloud storage buckets add-iam-policy-binding gs://acme --member="${MEMBER:?}" --role="projects/$PROJECT/roles/acme_web_reader_list" --condition=None
