-- What a README shows: once a study is stable, send it on.
function OnStableStudy(study, tags, metadata)
  RestApiPost('/dicom-web/servers/storage/stow', DumpJson({ Resources = { study } }), false)
end
