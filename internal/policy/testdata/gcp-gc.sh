# Least rights of a bootwell gc in gs://acme.
# PROJECT is that of the bucket; MEMBER gets them, such as serviceAccount:web@PROJECT.iam.gserviceaccount.com
gcloud iam roles create acme_web_gc_read --project="${PROJECT:?}" --permissions=storage.objects.get
gcloud storage buckets add-iam-policy-binding gs://acme --member="${MEMBER:?}" --role="projects/$PROJECT/roles/acme_web_gc_read" \
  --condition='^;^title=acme_web_gc_read;expression=resource.name.startsWith("projects/_/buckets/acme/objects/prod/tuf/") || resource.name.startsWith("projects/_/buckets/acme/objects/prod/manifests/") || resource.name.startsWith("projects/_/buckets/acme/objects/prod/locks/")'
gcloud iam roles create acme_web_gc_write --project="${PROJECT:?}" --permissions=storage.objects.create,storage.objects.delete
gcloud storage buckets add-iam-policy-binding gs://acme --member="${MEMBER:?}" --role="projects/$PROJECT/roles/acme_web_gc_write" \
  --condition='^;^title=acme_web_gc_write;expression=resource.name.startsWith("projects/_/buckets/acme/objects/prod/tuf/") || resource.name.startsWith("projects/_/buckets/acme/objects/prod/locks/")'
gcloud iam roles create acme_web_gc_delete --project="${PROJECT:?}" --permissions=storage.objects.delete
gcloud storage buckets add-iam-policy-binding gs://acme --member="${MEMBER:?}" --role="projects/$PROJECT/roles/acme_web_gc_delete" \
  --condition='^;^title=acme_web_gc_delete;expression=resource.name.startsWith("projects/_/buckets/acme/objects/prod/tuf/") || resource.name.startsWith("projects/_/buckets/acme/objects/prod/packs/") || resource.name.startsWith("projects/_/buckets/acme/objects/prod/manifests/") || resource.name.startsWith("projects/_/buckets/acme/objects/prod/agents/") || resource.name.startsWith("projects/_/buckets/acme/objects/prod/reports/") || resource.name.startsWith("projects/_/buckets/acme/objects/prod/logs/") || resource.name.startsWith("projects/_/buckets/acme/objects/prod/locks/")'
gcloud iam roles create acme_web_gc_list --project="${PROJECT:?}" --permissions=storage.objects.list
gcloud storage buckets add-iam-policy-binding gs://acme --member="${MEMBER:?}" --role="projects/$PROJECT/roles/acme_web_gc_list" --condition=None
