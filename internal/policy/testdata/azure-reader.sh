# Least rights of a bootwell reader in container acme of storage account acmestore.
# Written after the description of Azure by Microsoft of conditions; there is no server to try them on but Azure: look at what bootwell doctor says.
# SUBSCRIPTION and GROUP are those of the account; PRINCIPAL is the object ID of the identity that gets them.
SCOPE="/subscriptions/${SUBSCRIPTION:?}/resourceGroups/${GROUP:?}/providers/Microsoft.Storage/storageAccounts/acmestore/blobServices/default/containers/acme"
az role definition create --role-definition '{
  "Actions": [],
  "AssignableScopes": [
    "/subscriptions/'"$SUBSCRIPTION"'"
  ],
  "DataActions": [
    "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read"
  ],
  "Description": "Least rights of a bootwell reader",
  "Name": "acme-web-reader"
}'
az role assignment create --assignee-object-id "${PRINCIPAL:?}" --assignee-principal-type ServicePrincipal --role acme-web-reader --scope "$SCOPE" \
  --condition-version 2.0 --condition "(!(ActionMatches{'Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read'} AND NOT SubOperationMatches{'Blob.List'}) OR (@Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/tuf/*' OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/manifests/*' OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/reports/*' OR @Resource[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:path] StringLike 'prod/logs/*'))
  AND (!(ActionMatches{'Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read'} AND SubOperationMatches{'Blob.List'}) OR (@Request[Microsoft.Storage/storageAccounts/blobServices/containers/blobs:prefix] StringLike 'prod/reports/*'))"
